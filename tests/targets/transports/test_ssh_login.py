"""Logging in over SSH to a real server: whose key it is, and who we are."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edge.errors import DeviceError
from targets.transports.known_hosts import known_keys
from targets.transports.ssh import open_ssh
from targets.transports.ssh_config import read_login
from targets.transports.ssh_login import PASSWORD_VARIABLE
from tests.stand_ins.programs_here import goes_on, noise
from tests.stand_ins.ssh_server import PASSWORD, SshServer, make_key, opened, ssh_server

pytestmark = pytest.mark.long

NO_CONFIG = Path("/dev/null")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No keys, agent, password or configuration of whoever runs the tests."""
    for name in ("SSH_AUTH_SOCK", PASSWORD_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "user/.ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[SshServer]:
    """A server that a test may break."""
    with ssh_server(tmp_path / "server") as running:
        yield running


def command_in(message: str, begin: str) -> list[str]:
    """The command line that a message gives, from this word to its end."""
    return shlex.split(message[message.index(begin) :])


def unasked(argv: list[str]) -> list[str]:
    """OpenSSH's command, saying yes to its question, with the test's key."""
    first, *rest = argv
    assert first == "ssh"
    return ["ssh", "-o", "StrictHostKeyChecking=accept-new", "-o", "BatchMode=yes", *rest]


def fingerprint_of(server: SshServer) -> str:
    argv = ["ssh-keygen", "-lf", str(server.folder / "host_key.pub")]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()[1]


# Host keys


def test_an_unknown_host_is_refused_with_the_command_that_accepts_it(
    server: SshServer, tmp_path: Path
) -> None:
    known = tmp_path / "known_hosts"
    config = tmp_path / "ssh_config"
    config.write_text("Host *\n  StrictHostKeyChecking no\n" + server.config.read_text())
    for _ in range(2):
        with pytest.raises(DeviceError, match="is not known") as caught:
            opened(server, config=config, known_hosts=known, ask=lambda _: pytest.fail("asked"))
        assert not known.exists()  # never accepted by itself
    text = str(caught.value)
    assert fingerprint_of(server) in text
    assert server.host in text
    argv = command_in(text, "ssh -F")
    assert argv[-2:] == ["pi@127.0.0.1", "exit"]
    subprocess.run(unasked(argv), check=True, timeout=30, stderr=subprocess.DEVNULL)
    opened(server, known_hosts=known).close()


@pytest.mark.parametrize(
    "damage",
    [
        lambda key: key[:37],
        lambda key: key[:40] + "é号" + key[42:],
        lambda key: key[:0] + "=",
        lambda key: key + "A",
        lambda key: key.replace("A", "*"),
    ],
    ids=["cut", "letters", "empty", "longer", "signs"],
)
def test_a_damaged_key_of_the_host_is_another_one(
    server: SshServer, tmp_path: Path, damage: Callable[[str], str]
) -> None:
    known = tmp_path / "known_hosts"
    name, kind, key = server.known_hosts.read_text().split()[:3]
    known.write_text(f"{name} {kind} {damage(key)}\n", encoding="utf-8")
    with pytest.raises(DeviceError, match="HAS CHANGED") as caught:
        opened(server, known_hosts=known)
    assert fingerprint_of(server) in str(caught.value)
    damaged = b"\xff\xfe |1|\xe9|= x y\n|1|a|b ssh-rsa\n@revoked\n" + b"[" * 99 + b" a b\n"
    known.write_bytes(damaged)
    with pytest.raises(DeviceError, match="not known"):
        opened(server, known_hosts=known)


def test_a_changed_host_key_is_refused_loudly(own_server: SshServer) -> None:
    opened(own_server).close()
    before = fingerprint_of(own_server)
    own_server.stop()
    make_key(own_server.folder / "host_key")
    own_server.start()
    kept = own_server.known_hosts.read_text()
    with pytest.raises(DeviceError, match="HAS CHANGED") as caught:
        opened(own_server, ask=lambda _: pytest.fail("asked"))
    text = str(caught.value)
    assert before in text
    assert fingerprint_of(own_server) in text
    assert own_server.known_hosts.read_text() == kept
    forget, accept = text[text.index("ssh-keygen") :].split(" && ")
    subprocess.run(shlex.split(forget), check=True, timeout=30, capture_output=True)
    subprocess.run(unasked(shlex.split(accept)), check=True, timeout=30, capture_output=True)
    opened(own_server).close()


def test_a_host_key_of_another_type_is_a_change(server: SshServer, tmp_path: Path) -> None:
    kind, text, *_ = make_key(tmp_path / "k", "ecdsa").with_suffix(".pub").read_text().split()
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{server.port} {kind} {text}\n")
    with pytest.raises(DeviceError, match=r"HAS CHANGED, from ecdsa.* to ssh-ed25519"):
        opened(server, known_hosts=known)


def test_a_revoked_host_key_is_refused(server: SshServer, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    line = server.known_hosts.read_text()
    known.write_text(line + "@revoked " + line)
    with pytest.raises(DeviceError, match="REVOKED"):
        opened(server, known_hosts=known)


def test_host_keys_are_known_in_every_notation(server: SshServer, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    name, rest = server.known_hosts.read_text().split(" ", 1)
    for names in (f"other,{name}", "*", f"[127.0.0.?]:{server.port}", "[127.*"):
        known.write_text(f"# comment\n\nshort\n{names} {rest}")
        opened(server, known_hosts=known).close()
    for names in ("127.0.0.1", f"*,!{name}", "[127.0.0.1]:1", "|1|x|y", "|1|a"):
        known.write_text(f"{names} {rest}")
        with pytest.raises(DeviceError, match="is not known"):
            opened(server, known_hosts=known)
    shutil.copy(server.known_hosts, known)
    subprocess.run(["ssh-keygen", "-H", "-f", known], check=True, capture_output=True, timeout=30)
    assert name not in known.read_text()
    opened(server, known_hosts=known).close()
    assert known_keys([known], "[127.0.0.2]:22") == []


def test_the_known_type_of_several_is_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "server"
    more = f"HostKey {folder}/rsa_key\nHostKey {folder}/ecdsa_key"
    folder.mkdir()
    for kind in ("rsa", "ecdsa"):
        make_key(folder / f"{kind}_key", kind)
    with ssh_server(folder, config=more) as server:
        for kind in ("rsa", "ecdsa"):
            name, text, *_ = (folder / f"{kind}_key.pub").read_text().split()
            server.known_hosts.write_text(f"[127.0.0.1]:{server.port} {name} {text}\n")
            opened(server).close()


# Logging in


def test_password_from_the_environment(server: SshServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    with closing(opened(server, config=NO_CONFIG)) as transport:
        assert transport.run(["whoami"], timeout_s=20).stdout == b"pi\n"
    monkeypatch.setenv(PASSWORD_VARIABLE, "blackberry")
    with pytest.raises(DeviceError, match=rf"password in {PASSWORD_VARIABLE} is wrong for pi"):
        opened(server, config=NO_CONFIG)


def test_password_from_a_prompt(own_server: SshServer) -> None:
    asked = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return PASSWORD

    with closing(opened(own_server, config=NO_CONFIG, ask=ask)) as transport:
        own_server.cut()
        assert transport.run(["whoami"], timeout_s=20).stdout == b"pi\n"
    assert asked == ["Password of pi on 127.0.0.1: "]  # once, for the second connection too
    with pytest.raises(DeviceError, match="password given is wrong"):
        opened(own_server, config=NO_CONFIG, ask=lambda _: "blackberry")
    with closing(opened(own_server, ask=lambda _: pytest.fail("asked"))):
        pass  # a key goes first


def test_nobody_to_ask(server: SshServer, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=rf"no key was found.*ssh-copy-id.*{PASSWORD_VARIABLE}"):
        opened(server, config=NO_CONFIG)
    make_key(tmp_path / "user/.ssh/id_ed25519")
    with pytest.raises(DeviceError, match=r"id_ed25519 was refused"):
        opened(server, config=NO_CONFIG)
    make_key(tmp_path / "user/.ssh/id_ed25519", passphrase="long enough")
    with pytest.raises(DeviceError, match=r"id_ed25519 has a passphrase \(load it with ssh-add\)"):
        opened(server, config=NO_CONFIG)


def test_a_server_without_passwords(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    with ssh_server(tmp_path / "server", config="PasswordAuthentication no") as server:
        with pytest.raises(DeviceError, match="takes no password from pi"):
            opened(server, config=NO_CONFIG)
        opened(server).close()


def test_key_and_password_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ssh_server(
        tmp_path / "server", config="AuthenticationMethods publickey,password"
    ) as server:
        with pytest.raises(DeviceError, match=PASSWORD_VARIABLE):
            opened(server)
        monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
        opened(server).close()


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_keys_of_every_kind_in_their_usual_place(
    own_server: SshServer, tmp_path: Path, kind: str
) -> None:
    key = make_key(tmp_path / f"user/.ssh/id_{kind}", kind)
    (own_server.home / ".ssh/authorized_keys").write_text(
        key.with_name(key.name + ".pub").read_text()
    )
    opened(own_server, config=NO_CONFIG).close()


def test_keys_of_an_agent(
    server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sock = tmp_path / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", sock], stdout=subprocess.DEVNULL)
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(sock))
        for _ in range(100):
            if sock.exists():
                break
            time.sleep(0.05)
        # More keys than the server lets anybody try: the one of the configuration goes first.
        for number in range(7):
            wrong = make_key(tmp_path / f"wrong{number}")
            subprocess.run(["ssh-add", "-q", wrong], check=True, timeout=30)
        subprocess.run(["ssh-add", "-q", server.key], check=True, timeout=30)
        public = tmp_path / "right.pub"
        shutil.copy(server.folder / "key.pub", public)
        config = tmp_path / "ssh_config"
        for only in ("no", "yes"):
            config.write_text(f"IdentityFile {tmp_path}/right\nIdentitiesOnly {only}\n")
            opened(server, config=config).close()
    finally:
        agent.terminate()
        agent.wait(10)
    # The agent is gone and its socket is still there.
    if not sock.exists():
        sock.touch()
    opened(server).close()


def test_configuration_of_the_user(server: SshServer, tmp_path: Path) -> None:
    ssh = tmp_path / "user/.ssh"
    (ssh / "boards").mkdir()
    (ssh / "boards/pi").write_text(
        f"Host kitchen\n  HostName 127.0.0.1\n  Port {server.port}\n  User pi\n"
    )
    (ssh / "config").write_text(
        f"Host kitchen\n  Include {ssh}/boards/*\n  IdentityFile {server.key}\n"
        f"  HostKeyAlias board\n  UserKnownHostsFile {tmp_path}/mine ~/.ssh/more\n"
    )
    (ssh / "more").write_text(
        server.known_hosts.read_text().replace(f"[127.0.0.1]:{server.port}", "board")
    )
    with closing(open_ssh("kitchen")) as transport:
        assert transport.name == "ssh kitchen"
        assert transport.run(["whoami"], timeout_s=20).stdout == b"pi\n"
    (ssh / "more").unlink()
    with pytest.raises(DeviceError, match=r"accept it with: ssh kitchen exit$"):
        open_ssh("kitchen")


def test_logins(tmp_path: Path) -> None:
    plain = read_login("10.0.0.5")
    assert (plain.user, plain.hostname, plain.port) == (account(), "10.0.0.5", 22)
    assert plain.host_key_name == "10.0.0.5"
    whole = read_login("pi@Orin.local:2222")
    assert (whole.user, whole.hostname, whole.port) == ("pi", "orin.local", 2222)
    assert whole.host_key_name == "[orin.local]:2222"
    assert whole.accept == "ssh -p 2222 pi@Orin.local"
    six = read_login("pi@[fe80::1%eth0]:22")
    assert (six.hostname, six.port, six.host_key_name) == ("fe80::1%eth0", 22, "fe80::1%eth0")
    for text in (
        "",
        "@",
        "pi@",
        "a b",
        "pi@host:",
        "pi@host:0",
        "host:70000",
        "-oProxyCommand=x",
        "fe80::1",
        "pi@-host",
    ):
        with pytest.raises(DeviceError, match="is not user@host"):
            read_login(text)
    for text in ("a;b", "$(touch)", "a\0b"):
        with pytest.raises(DeviceError):
            read_login(text)
    for port in ("0", "70000", "²", "9" * 5000, "many"):
        (tmp_path / "broken").write_text(f"Host x\n  Port {port}\n")
        with pytest.raises(DeviceError, match=r"ssh x: its configuration cannot be read: .*broken"):
            read_login("x", config=tmp_path / "broken")


@pytest.mark.parametrize("user", ["a;touch /tmp/x", "$(id)", "`id`", "-oProxyCommand=id", "a b"])
def test_a_user_s_name_reaches_no_shell(user: str) -> None:
    """A ProxyCommand with %r is run by a shell."""
    with pytest.raises(DeviceError, match=r"signs of a shell|is not user@host"):
        read_login(f"{user}@board")


def account() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def resolved(config: Path, host: str) -> dict[str, str]:
    """What OpenSSH itself says of a host, the last value of each option."""
    argv = ["ssh", "-T", "-G", "-F", str(config), host]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30)
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


def test_configurations_mean_what_they_mean_to_openssh(tmp_path: Path) -> None:
    config = tmp_path / "config"
    (tmp_path / "one").write_text("Host board\n  HostKeyAlias Kitchen\n")
    (tmp_path / "two").write_text("Match host lab.lan\n  Port 2299\n")
    config.write_text(
        f"Include={tmp_path}/one\nInclude {tmp_path}/two {tmp_path}/missing\n"
        "Host board lab\n  HostName %h.lan\n"
        f"  IdentityFile {tmp_path}/key_%h_%r_%n_%p_%%h\n"
        f"  UserKnownHostsFile {tmp_path}/known_%h\n"
        "  ProxyCommand relay %h %p %r %n %%h\n"
        "Host far\n  ProxyJump one,pi@two:2222\n"
        "Host none\n  ProxyJump none\n  IdentityFile none\n  UserKnownHostsFile none\n"
        "Match originalhost lab user somebody\n  HostKeyAlias other\n"
        'Match exec "test %n = called"\n  Port 2022\n'
        "Match final host *.lan\n  User ends\n"
    )
    for host in ("board", "lab", "far", "none", "called", "else"):
        login, truth = read_login(host, config=config), resolved(config, host)
        assert login.hostname == truth["hostname"]
        assert (str(login.port), login.user) == (truth["port"], truth["user"])
    lab = read_login("lab", config=config)
    assert (lab.hostname, lab.port, lab.user) == ("lab.lan", 2299, "ends")
    assert lab.host_key_name == "[lab.lan]:2299"
    assert lab.identities == (tmp_path / "key_lab.lan_ends_lab_2299_%h",)
    assert lab.known_hosts[0] == tmp_path / "known_lab.lan"
    assert lab.proxy_command == "relay lab.lan 2299 ends lab %h"
    assert read_login("board", config=config).host_key_name == "kitchen"
    assert read_login("far", config=config).jumps == ("one", "pi@two:2222")
    assert read_login("called", config=config).port == 2022
    bare = read_login("none", config=config)
    assert (bare.jumps, bare.identities) == ((), ())
    assert all(path.is_relative_to("/etc/ssh") for path in bare.known_hosts)
    mine = read_login("pi@lab:2", config=config)
    assert (mine.user, mine.port) == ("pi", 2)


def test_host_keys_are_found_as_openssh_finds_them(tmp_path: Path) -> None:
    key, other = (
        make_key(tmp_path / name).with_suffix(".pub").read_text().split()[1] for name in "ab"
    )
    known = tmp_path / "known_hosts"
    # A form feed in a comment ends no line: the rest of it is no entry.
    known.write_text(
        f"board,[board]:2222 ssh-ed25519 {key} me\x0cboard ssh-ed25519 {other}\n"
        f"@revoked board ssh-ed25519 {other}\n@cert-authority * ssh-ed25519 {other}\n"
        f"*.lan,!bad.lan ssh-ed25519 {key}\n"
    )
    expected = [(key, False), (other, True)]
    for _ in range(2):
        found = known_keys([tmp_path / "missing", known], "board")
        assert [(one.text, one.revoked) for one in found] == expected
        assert [one.text for one in known_keys([known], "[board]:2222")] == [key]
        assert [one.text for one in known_keys([known], "x.lan")] == [key]
        for name in ("bad.lan", "[board]:22", "-board", "-H", "other"):
            assert known_keys([known], name) == []
        argv = ["ssh-keygen", "-H", "-f", str(known)]  # the same again with hashed names
        subprocess.run(argv, check=True, capture_output=True, timeout=30)
    assert "|1|" in known.read_text()
    known.write_text(f"@unheard board ssh-ed25519 {key}\n")
    assert known_keys([known], "board") == []


def test_a_hashed_key_can_be_revoked(server: SshServer, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    line = server.known_hosts.read_text()
    known.write_text(line)
    subprocess.run(["ssh-keygen", "-H", "-f", known], check=True, capture_output=True, timeout=30)
    hashed = known.read_text()
    opened(server, known_hosts=known).close()
    known.write_text(f"{hashed}@revoked {hashed}")
    with pytest.raises(DeviceError, match="REVOKED"):
        opened(server, known_hosts=known)
    # In another file of the configuration it counts as well.
    (tmp_path / "good").write_text(line)
    known.write_text(f"@revoked * {line.split(' ', 1)[1]}")
    config = tmp_path / "config"
    config.write_text(
        f"UserKnownHostsFile {tmp_path}/good {known}\nIdentityFile {server.key}\nHost *\n"
    )
    with pytest.raises(DeviceError, match="REVOKED"):
        open_ssh(server.host, config=config)


def test_without_openssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    login = read_login("board")
    (tmp_path / "known").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    for call in (lambda: read_login("board"), lambda: known_keys([tmp_path / "known"], "board")):
        with pytest.raises(DeviceError, match=r"install the package openssh-client$"):
            call()
    assert login.hostname == "board"


def test_openssh_that_does_not_end_or_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config"
    config.write_text('Match exec "sleep 94731"\n  Port 1\n')
    monkeypatch.setattr("targets.transports.known_hosts._ANSWER_S", 0.5)
    with pytest.raises(DeviceError, match=r"`ssh -G` gave no answer within 0.5 s.*Match exec"):
        read_login("board", config=config)
    assert not goes_on("sleep 94731")
    monkeypatch.undo()
    # A file that cannot be searched is not one without keys: it might revoke one.
    program = tmp_path / "ssh-keygen"
    program.write_text("#!/bin/sh\necho no room >&2; exit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(DeviceError, match="host keys cannot be read: no room"):
        known_keys([config], "board")


def test_no_greeting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def hang_up() -> None:
            listening.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        port = listening.getsockname()[1]
        with pytest.raises(DeviceError, match=rf"no greeting .* port {port}: .*journalctl -u ssh"):
            open_ssh(f"pi@127.0.0.1:{port}", config=NO_CONFIG, timeout_s=5)
        thread.join(10)


def behind(gate: SshServer, board: SshServer, folder: Path) -> dict[str, Any]:
    """Options of `open_ssh` under which ``board`` is that server, reached through the other one."""
    known, config = folder / "known_hosts", folder / "ssh_config"
    known.write_text(gate.known_hosts.read_text() + board.known_hosts.read_text())
    config.write_text(
        f"Host gate\n  HostName 127.0.0.1\n  Port {gate.port}\n  User pi\n"
        f"  IdentityFile {gate.key}\n"
        f"Host board\n  HostName 127.0.0.1\n  Port {board.port}\n  User pi\n"
        f"  IdentityFile {board.key}\n  ProxyJump gate\n"
        "Host a\n  ProxyJump b\nHost b\n  ProxyJump a\n"
    )
    return {"config": config, "known_hosts": known}


def test_through_another_host(
    server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ssh_server(tmp_path / "gate") as gate:
        options = behind(gate, server, tmp_path)
        config = options["config"]
        before = threading.active_count()
        with closing(open_ssh("board", **options)) as transport:
            assert transport.run(["whoami"], timeout_s=20).stdout == b"pi\n"
            assert "Accepted publickey" in gate.log.read_text()
            gate.cut()
            assert transport.run(["whoami"], timeout_s=20).stdout == b"pi\n"
        assert threading.active_count() == before
        with pytest.raises(DeviceError, match="ProxyJump leads back"):
            open_ssh("a", **options)
        # The board's password is not the gate's business, and the gate's key is checked as well.
        monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
        config.write_text(config.read_text().replace(str(gate.key), str(tmp_path / "none")))
        with pytest.raises(DeviceError, match="ssh gate: it took no key"):
            open_ssh("board", **options)
        with pytest.raises(DeviceError, match="ssh gate: its host key is not known"):
            open_ssh("board", config=config, known_hosts=server.known_hosts)


@pytest.mark.parametrize("what", ["close", "run"])
def test_the_host_between_is_gone_and_nobody_has_noticed(
    server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    straight: list[socket.socket] = []
    connect = socket.create_connection

    def kept(*args: Any, **options: Any) -> socket.socket:
        straight.append(connect(*args, **options))
        return straight[-1]

    with ssh_server(tmp_path / "gate") as gate:
        options = behind(gate, server, tmp_path)
        before = threading.active_count()
        with monkeypatch.context() as patch:
            patch.setattr(socket, "create_connection", kept)
            transport = open_ssh("board", **options)
        # From here on nothing can be written to the gate, and as it is frozen nothing tells the
        # thread that reads from it.
        gate.freeze()
        assert len(straight) == 1
        straight[0].shutdown(socket.SHUT_WR)
        if what == "run":
            # Frozen are the processes of this connection; the next one gets others.
            gate.thaw()
            assert transport.run(["whoami"], timeout_s=20).stdout == b"pi\n"
        transport.close()
        gate.thaw()
        assert threading.active_count() == before


def test_through_a_program(server: SshServer, tmp_path: Path) -> None:
    config = tmp_path / "ssh_config"
    relay = tmp_path / "relay.py"
    relay.write_text(
        "import os, select, socket, sys\n"
        "s = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        "while True:\n"
        "    for ready in select.select([0, s], [], [])[0]:\n"
        "        data = os.read(0, 65536) if ready == 0 else s.recv(65536)\n"
        "        if not data: sys.exit()\n"
        "        s.sendall(data) if ready == 0 else os.write(1, data)\n"
    )
    config.write_text(f"IdentityFile {server.key}\nProxyCommand {sys.executable} {relay} %h %p\n")
    with closing(opened(server, config=config)) as transport:
        assert transport.run(["cat"], timeout_s=20, stdin=noise(300_000)).stdout == noise(300_000)
    assert not goes_on(str(relay))
    config.write_text(f"IdentityFile {server.key}\nProxyCommand exit 3\n")
    with pytest.raises(DeviceError, match="cannot log in"):
        opened(server, config=config)


# Hosts that do not answer as they should


def test_nobody_listens() -> None:
    with pytest.raises(DeviceError, match="port 1 is closed: is its SSH server running"):
        open_ssh("pi@127.0.0.1:1")
    with pytest.raises(DeviceError, match="no machine of that name"):
        open_ssh("pi@no-such-host.invalid")


def test_a_host_that_says_nothing(own_server: SshServer) -> None:
    own_server.freeze()
    started = time.perf_counter()
    try:
        with pytest.raises(DeviceError, match="cannot log in"):
            opened(own_server, timeout_s=1)
    finally:
        own_server.thaw()
    assert time.perf_counter() - started < 10
    opened(own_server).close()


def test_a_login_shell_that_talks(tmp_path: Path) -> None:
    with (
        ssh_server(tmp_path / "server", config='ForceCommand echo "Welcome!"') as server,
        pytest.raises(DeviceError, match=r"login shell.*Welcome!.*POSIX"),
    ):
        opened(server)


def test_a_user_without_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container, where nothing but the account names the home."""
    monkeypatch.delenv("HOME")
    config = tmp_path / "config"
    config.write_text("Host board\n  IdentityFile ~/.ssh/x\n")
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    assert read_login("board", config=config).identities == (home / ".ssh/x",)
    config.write_text("Host board\n  UserKnownHostsFile ~no-such-user/known\n")
    with pytest.raises(DeviceError, match=r"cannot be read: .*no-such-user"):
        read_login("board", config=config)
