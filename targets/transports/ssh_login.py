"""Logging in over SSH: whom to reach and how, whether it is really them, and who we are.

The user's own set-up is honoured: the configuration as ``ssh -G`` resolves it, the agent, the keys,
``known_hosts``. No host key is ever accepted here: an unknown one is refused with the command that
accepts it, whatever StrictHostKeyChecking says.
"""

from __future__ import annotations

import logging
import os
import shlex
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

from edge.errors import DeviceError
from targets.transports.known_hosts import KnownKey, fingerprint, known_keys
from targets.transports.ssh_config import Login, read_login

__all__ = ["PASSWORD_VARIABLE", "connect"]

PASSWORD_VARIABLE = "EDGEPOSE_SSH_PASSWORD"

_KEEPALIVE_S = 10
_DEAD_AFTER_S = 30


def connect(
    login: Login,
    *,
    timeout_s: float,
    ask: Callable[[str], str] | None,
    through: tuple[str, ...] = (),
) -> tuple[Any, ExitStack]:
    """A connected, authenticated `paramiko.Transport` and the stack that closes all it stands on.

    ``ask`` gets a prompt and returns a password; None where nobody can be asked. ``through`` names
    the hosts for whose sake this one is reached: the password of the environment is not theirs.
    Raises DeviceError where the host cannot be reached, is not who it was, or does not let us in.
    """
    import paramiko

    # What breaks in its thread is raised to the caller; it must not print a traceback besides.
    if not logging.getLogger("paramiko").handlers:
        logging.getLogger("paramiko").addHandler(logging.NullHandler())
    with ExitStack() as stack:
        try:
            known = known_keys(login.known_hosts, login.host_key_name)
            sock = _dial(login, stack, timeout_s, ask, through)
            transport = paramiko.Transport(sock)
            stack.callback(transport.join, 5)
            stack.callback(transport.close)
            transport.banner_timeout = transport.auth_timeout = timeout_s
            _prefer_known_types(transport, known)
            transport.start_client(timeout=timeout_s)
            _check_host_key(login, transport.get_remote_server_key(), known)
            variable = os.environ.get(PASSWORD_VARIABLE) if not through else None
            _authenticate(transport, login, variable, ask)
        except (paramiko.SSHException, OSError, EOFError) as error:
            text = str(error) or "it closed the connection"
            if "protocol banner" in text:
                text = (
                    f"no greeting of an SSH server came from port {login.port}: it is busy, bars "
                    "this address after failed logins, or is another service; wait a minute, check "
                    "the port, and see `journalctl -u ssh` on the device"
                )
            raise DeviceError(f"{login.name}: cannot log in: {text}") from None
        transport.set_keepalive(_KEEPALIVE_S)
        return transport, stack.pop_all()


def _dial(
    login: Login,
    stack: ExitStack,
    timeout_s: float,
    ask: Callable[[str], str] | None,
    through: tuple[str, ...],
) -> Any:
    """A socket to the host: straight, through other hosts, or through a program."""
    if login.proxy_command and not login.jumps:
        return _through_program(login, stack)
    if login.jumps:
        return _through_hosts(login, stack, timeout_s, ask, (*through, login.host))
    where = (login.hostname, login.port)
    try:
        sock = socket.create_connection(where, timeout=timeout_s)
    except socket.gaierror:
        fix = "no machine of that name is known: check the name, or give its address"
    except TimeoutError:
        fix = f"no answer within {timeout_s:g} s: is it switched on, and on this network?"
    except ConnectionRefusedError:
        fix = f"port {login.port} is closed: is its SSH server running?"
    except OSError as error:
        fix = error.strerror or str(error)
    else:
        stack.callback(sock.close)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # A pulled cable says nothing: unanswered for so long, the connection counts as lost.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_AFTER_S * 1000)
        return sock
    raise DeviceError(f"{login.name}: {fix}")


def _through_hosts(
    login: Login,
    stack: ExitStack,
    timeout_s: float,
    ask: Callable[[str], str] | None,
    through: tuple[str, ...],
) -> Any:
    *before, last = (jump.removeprefix("ssh://") for jump in login.jumps)
    via = read_login(last, config=login.config, known_hosts=login.only_known_hosts)
    via = replace(via, jumps=tuple(before) or via.jumps)
    if via.host in through:
        raise DeviceError(f"{login.name}: its ProxyJump leads back to {via.host}")
    transport, inner = connect(via, timeout_s=timeout_s, ask=ask, through=through)
    stack.push(inner)
    where = (login.hostname, login.port)
    return _Hop(transport.open_channel("direct-tcpip", where, ("127.0.0.1", 0), timeout=timeout_s))


class _Hop:
    """A channel through another host, as the socket of the connection that goes on from there.

    A socket closes whatever became of its other end. A channel says goodbye to the host between,
    and raises where that one is gone and its thread has not noticed yet (paramiko 5.1.0).
    """

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def close(self) -> None:
        from paramiko import SSHException

        with suppress(SSHException, OSError, EOFError):
            self._channel.close()


def _through_program(login: Login, stack: ExitStack) -> socket.socket:
    """A socket whose other end is a running program; it lives as long as the connection."""
    ours, theirs = socket.socketpair()
    stack.callback(ours.close)
    with theirs:
        process = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {login.proxy_command}"],
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            start_new_session=True,
        )

    def end() -> None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    stack.callback(end)
    return ours


def _prefer_known_types(transport: Any, known: list[KnownKey]) -> None:
    """Ask the host first for keys of the types that we know of it, as OpenSSH does."""
    kinds = {key.kind for key in known if not key.revoked}
    if "ssh-rsa" in kinds:
        kinds |= {"rsa-sha2-512", "rsa-sha2-256"}
    options = transport.get_security_options()
    options.key_types = sorted(options.key_types, key=lambda kind: kind not in kinds)


def _check_host_key(login: Login, key: Any, known: list[KnownKey]) -> None:
    text = key.get_base64()
    shown = f"{key.get_name()} {fingerprint(text)}"
    if any(one.revoked and one.text == text for one in known):
        raise DeviceError(
            f"{login.name}: ITS HOST KEY IS REVOKED ({shown}); nothing was sent to it"
        )
    known = [one for one in known if not one.revoked]
    if any(one.text == text for one in known):
        return
    if not known:
        raise DeviceError(
            f"{login.name}: its host key is not known: {shown}; compare it with what "
            "`ssh-keygen -lf` says of /etc/ssh/ssh_host_*_key.pub on the device, and accept it "
            f"with: {login.accept} exit"
        )
    old = next((one for one in known if one.kind == key.get_name()), known[0])
    forget = shlex.join(["ssh-keygen", "-f", str(old.file), "-R", login.host_key_name])
    raise DeviceError(
        f"{login.name}: ITS HOST KEY HAS CHANGED, from {old.kind} {fingerprint(old.text)} to "
        f"{shown}. Another machine may be answering in its place; nothing was sent to it. Only if "
        "you know why it changed (the system was installed anew, the address went to another "
        f"device), forget the old key with: {forget} && {login.accept} exit"
    )


def _authenticate(
    transport: Any, login: Login, variable: str | None, ask: Callable[[str], str] | None
) -> None:
    """No proof where none is asked for, then the agent's keys, the key files, the password."""
    from paramiko import AuthenticationException, BadAuthenticationType

    try:
        transport.auth_none(login.user)
        return
    except BadAuthenticationType as error:
        allowed = set(error.allowed_types)
    notes = []
    with ExitStack() as stack:
        for label, key in _keys(login, stack) if "publickey" in allowed else ():
            if isinstance(key, str):
                notes.append(f"{label} {key}")
                continue
            try:
                more = transport.auth_publickey(login.user, key)
            except AuthenticationException:
                if not transport.is_active():
                    raise
                notes.append(f"{label} was refused")
                continue
            if not more:
                return
            allowed = set(more)
            break
    told = "; ".join(notes) or "no key was found"
    fix = f"give it a key with `ssh-copy-id {login.accept.removeprefix('ssh ')}`"
    if not allowed & {"password", "keyboard-interactive"}:
        raise DeviceError(
            f"{login.name}: it takes no password from {login.user}, and no key of ours ({told}): "
            f"{fix} from a machine that it lets in, or load the right key with ssh-add"
        )
    if variable is None and ask is None:
        raise DeviceError(
            f"{login.name}: it took no key ({told}): {fix}, or set {PASSWORD_VARIABLE}"
        )
    word = variable
    if word is None and ask is not None:
        word = ask(f"Password of {login.user} on {login.hostname}: ")
    try:
        more = transport.auth_password(login.user, word)
    except AuthenticationException:
        if not transport.is_active():
            raise
        source = f"in {PASSWORD_VARIABLE}" if variable is not None else "given"
        raise DeviceError(
            f"{login.name}: the password {source} is wrong for {login.user}, and no key was taken "
            f"({told})"
        ) from None
    if more:
        raise DeviceError(f"{login.name}: it asks for more than a password: {', '.join(more)}")


def _keys(login: Login, stack: ExitStack) -> Iterator[tuple[str, Any]]:
    """Label and key, or label and the reason why not: those of the agent, then those in files."""
    import paramiko

    wanted = set()
    for path in login.identities:
        public = path.with_name(path.name + ".pub")
        if public.is_file():
            wanted.update(public.read_text(encoding="utf-8", errors="replace").split()[1:2])
    held = set()
    if os.environ.get("SSH_AUTH_SOCK"):
        # paramiko leaks the socket of an agent that is gone.
        with socket.socket(socket.AF_UNIX) as probe:
            alive = probe.connect_ex(os.environ["SSH_AUTH_SOCK"]) == 0
        agent = paramiko.Agent() if alive else None
        if agent is not None:
            stack.callback(agent.close)
            keys = [
                key
                for key in agent.get_keys()
                if not login.identities_only or key.get_base64() in wanted
            ]
            for key in sorted(keys, key=lambda key: key.get_base64() not in wanted):
                held.add(key.get_base64())
                yield f"the agent's key {key.get_name()} {fingerprint(key.get_base64())}", key
    for path in login.identities:
        try:
            key = paramiko.PKey.from_path(path)
        except FileNotFoundError:
            yield str(path), "does not exist"
        except (TypeError, paramiko.PasswordRequiredException):
            yield str(path), "has a passphrase (load it with ssh-add)"
        except (paramiko.SSHException, paramiko.UnknownKeyType, OSError, ValueError) as error:
            yield str(path), f"cannot be read ({error})"
        else:
            if key.get_base64() not in held:
                yield str(path), key
