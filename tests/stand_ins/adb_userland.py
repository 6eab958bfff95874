"""The folder behind a stand-in phone: Android's shell and tools, its facts, and what a test turns.

The shell is mksh and the tools are toybox, as on a phone; `getprop`, `dumpsys`, `settings`, `svc`,
`cmd` and `input` are scripts that print the documented formats and keep their state in ROOT/sim.
Programs run there in a chroot as user 2000, so that `/data/local/tmp` and `/sys` are absolute paths
and files can be unreadable; that takes root. A preloaded shim hands aarch64 executables to QEMU.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

SHELL_UID = 2000
_PROGRAMS = ("adb", "mksh", "toybox", "qemu-aarch64-static", "cc", "unshare", "chroot")
# Model, platform and clocks of a Snapdragon 865: four little, three big and one prime core.
_CORES_KHZ = {0: 1_804_800, 4: 2_419_200, 7: 2_841_600}
_GOVERNOR = "schedutil"

_PROPS = {
    "ro.product.model": "Mi 10",
    "ro.product.manufacturer": "Xiaomi",
    "ro.product.device": "umi",
    "ro.soc.model": "SM8250",
    "ro.soc.manufacturer": "QTI",
    "ro.board.platform": "kona",
    "ro.hardware": "qcom",
    "ro.build.version.release": "12",
    "ro.build.version.sdk": "31",
    "ro.build.fingerprint": "Xiaomi/umi/umi:12/RKQ1.211001.001/test:user/release-keys",
    "ro.product.cpu.abi": "arm64-v8a",
    "ro.product.cpu.abilist": "arm64-v8a,armeabi-v7a,armeabi",
    "ro.kernel.qemu": "1",  # emulated: no latency of this phone counts
    "sys.boot_completed": "1",
}

_SCRIPTS = {
    "getprop": r"""
if [ $# -eq 0 ]; then
    while IFS='=' read -r key value; do echo "[$key]: [$value]"; done </sim/props
    exit 0
fi
found=${2-}
while IFS='=' read -r key value; do [ "$key" = "$1" ] && found=$value; done </sim/props
echo "$found"
""",
    "dumpsys": r"""
case $1 in
battery) cat /sim/battery ;;
thermalservice)
    if [ ! -e /sim/thermal ]; then echo "Can't find service: thermalservice"; exit 0; fi
    # A status a line: each call takes one, the last stays.
    status=$(head -n 1 /sim/thermal_status)
    if [ "$(wc -l </sim/thermal_status)" -gt 1 ]; then
        rest=$(tail -n +2 /sim/thermal_status); echo "$rest" >/sim/thermal_status
    fi
    sed "s/@STATUS@/$status/" /sim/thermal ;;
power)
    echo "POWER MANAGER (dumpsys power)"
    stay=false; [ "$(settings get global stay_on_while_plugged_in)" = 0 ] || stay=true
    saver=false; [ "$(settings get global low_power)" = 1 ] && saver=true
    echo "  mStayOn=$stay"; echo "  mWakefulness=Awake"; echo "  mBatterySaverEnabled=$saver" ;;
*) echo "Can't find service: $1" ;;
esac
""",
    "settings": r"""
verb=$1 space=$2 key=${3-}
case $verb in
get) cat "/sim/settings/$space/$key" 2>/dev/null || echo null ;;
put) echo "settings $*" >>/sim/calls; echo "$4" >"/sim/settings/$space/$key" ;;
delete) echo "settings $*" >>/sim/calls
    if [ -e "/sim/settings/$space/$key" ]; then rm "/sim/settings/$space/$key"; n=1; else n=0; fi
    echo "Deleted $n rows" ;;
list) cd "/sim/settings/$space" && for key in *; do echo "$key=$(cat "$key")"; done ;;
*) echo "Error: unknown command: $verb"; exit 255 ;;
esac
""",
    "svc": r"""
echo "svc $*" >>/sim/calls
[ "$1 ${2-}" = "power stayon" ] || exit 0
case ${3-} in
true) mask=7 ;; false) mask=0 ;; usb) mask=2 ;; ac) mask=1 ;; wireless) mask=4 ;; *) exit 0 ;;
esac
echo $mask >/sim/settings/global/stay_on_while_plugged_in
""",
    "cmd": r"""
echo "cmd $*" >>/sim/calls
case "$1 ${2-}" in
"power set-fixed-performance-mode-enabled")
    if [ "$(getprop ro.build.version.sdk)" -lt 30 ]; then echo "Unknown command: $2"; exit 255; fi
    if [ -e /sim/no_fixed_performance ]; then
        echo "Failed to set FIXED_PERFORMANCE mode"
        echo "This is likely because Power HAL AIDL is not implemented on this device"
        exit 255
    fi
    echo "$3" >/sim/fixed_performance ;;
"power set-mode") echo "$3" >/sim/settings/global/low_power ;;
"thermalservice "*) ;;
*) echo "cmd: Can't find service: $1"; exit 20 ;;
esac
""",
    "uname": r"""
case ${1-} in
-m) echo aarch64 ;; -r) echo 4.19.113-perf ;; -n) echo localhost ;; ""|-s) echo Linux ;;
*) echo "Linux localhost 4.19.113-perf #1 SMP PREEMPT aarch64 Toybox" ;;
esac
""",
    "input": r"""
echo "input $*" >>/sim/calls
""",
}

_THERMAL = """\
IsStatusOverride: false
ThermalEventListeners:
	callbacks: 2
	killed: false
	broadcasts count: -1
ThermalStatusListeners:
	callbacks: 1
	killed: false
	broadcasts count: -1
Thermal Status: @STATUS@
Cached temperatures:
	Temperature{mValue=99.9, mType=3, mName=skin, mStatus=0}
HAL Ready: %s
HAL connection:
	ThermalHAL 2.0 connected: yes
Current temperatures from HAL:
%sCurrent cooling devices from HAL:
	CoolingDevice{mValue=0, mType=2, mName=thermal-cpufreq-0}
"""

_BATTERY = """\
Current Battery Service state:
  AC powered: false
  USB powered: {powered}
  Wireless powered: false
  Max charging current: 500000
  Max charging voltage: 5000000
  Charge counter: 3812000
  status: {status}
  health: 2
  present: true
  level: {level}
  scale: 100
  voltage: 4291
  temperature: {tenths}
  technology: Li-poly
"""

# The kernel of a phone runs aarch64 files; this one asks QEMU where it meets one.
_SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

int execve(const char *path, char *const argv[], char *const envp[]) {
    int (*real)(const char *, char *const *, char *const *) =
        (int (*)(const char *, char *const *, char *const *))dlsym(RTLD_NEXT, "execve");
    unsigned char head[20] = {0};
    int file = open(path, O_RDONLY | O_CLOEXEC);
    long got = file < 0 ? -1 : read(file, head, sizeof head);
    if (file >= 0) close(file);
    if (got != sizeof head || memcmp(head, "\177ELF", 4) || head[18] != 183 ||
        access(path, X_OK))
        return real(path, argv, envp);
    size_t count = 0;
    while (argv[count]) count++;
    const char **with = calloc(count + 6, sizeof *with);
    const char *cpu = getenv("QEMU_CPU");
    size_t at = 0;
    with[at++] = "qemu-aarch64-static";
    with[at++] = "-cpu";
    with[at++] = cpu ? cpu : "cortex-a76";
    with[at++] = path;
    for (size_t each = 1; each < count; each++) with[at++] = argv[each];
    return real("/system/bin/qemu-aarch64-static", (char *const *)with, envp);
}

int execv(const char *path, char *const argv[]) { return execve(path, argv, environ); }

int execvp(const char *file, char *const argv[]) {
    char whole[PATH_MAX];
    const char *folder = getenv("PATH");
    int error = ENOENT;
    if (strchr(file, '/')) return execve(file, argv, environ);
    while (folder && *folder) {
        int length = (int)strcspn(folder, ":");
        snprintf(whole, sizeof whole, "%.*s/%s", length, folder, file);
        execve(whole, argv, environ);
        if (errno != ENOENT) error = errno;
        folder += length + (folder[length] == ':');
    }
    errno = error;
    return -1;
}
"""


@cache
def why_not() -> str:
    """Why no stand-in phone can run here; empty where one can."""
    if os.geteuid() != 0:
        return "the stand-in phone's chroot takes root"
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: adb mksh toybox qemu-user-static gcc)"
    return ""


@cache
def _has_mount_namespaces() -> bool:
    return (
        subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
    )


def command(root: Path, line: str) -> list[str]:
    """The argument vector that runs a shell line on the phone, in one process to the end."""
    environment = {
        "PATH": "/system/bin:/system/xbin",
        "ANDROID_ROOT": "/system",
        "ANDROID_DATA": "/data",
        "HOME": "/",
        "USER": "shell",
        "SHELL": "/bin/sh",
        "LD_PRELOAD": "/system/lib64/aarch64.so",
    }
    inside = [
        *("chroot", f"--userspec={SHELL_UID}:{SHELL_UID}", "--groups=", str(root)),
        *("/system/bin/env", "-i", *(f"{key}={value}" for key, value in environment.items())),
        *("/system/bin/sh", "-c", line),
    ]
    if not _has_mount_namespaces():
        return inside
    # The host's processes with the phone's processor: /proc/self needs the real one.
    mounts = 'cd "$1" && mount --rbind /proc proc && for name in cpuinfo loadavg version; do '
    mounts += 'mount --bind "sim/proc/$name" "proc/$name"; done; shift; exec "$@"'
    return [
        "unshare",
        "-m",
        "--propagation",
        "private",
        "sh",
        "-c",
        mounts,
        "sh",
        str(root),
        *inside,
    ]


def _copy_program(root: Path, name: str, to: str) -> None:
    source = Path(shutil.which(name) or name).resolve()
    target = root / "system/bin" / to
    shutil.copy2(source, target)
    listing = subprocess.run(["ldd", source], capture_output=True, text=True, check=False).stdout
    for library in re.findall(r"(/\S+) \(0x", listing):
        place = root / library.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            shutil.copy2(library, place)


def _write(root: Path, files: Mapping[str, str], mode: int = 0o644) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)


def _cpu_files() -> dict[str, str]:
    folder = "sys/devices/system/cpu"
    files = {f"{folder}/{name}": "0-7\n" for name in ("online", "possible", "present")}
    for core in range(8):
        first = max(start for start in _CORES_KHZ if start <= core)
        policy = f"{folder}/cpu{core}/cpufreq"
        top = _CORES_KHZ[first]
        related = [str(c) for c in range(8) if max(s for s in _CORES_KHZ if s <= c) == first]
        files |= {
            f"{policy}/cpuinfo_max_freq": f"{top}\n",
            f"{policy}/cpuinfo_min_freq": "300000\n",
            f"{policy}/scaling_max_freq": f"{top}\n",
            f"{policy}/scaling_min_freq": "300000\n",
            f"{policy}/scaling_cur_freq": f"{top}\n",
            f"{policy}/scaling_governor": f"{_GOVERNOR}\n",
            f"{policy}/scaling_available_governors": "schedutil powersave performance\n",
            f"{policy}/related_cpus": " ".join(related) + "\n",
        }
    return files


def _proc_files() -> dict[str, str]:
    block = (
        "processor\t: {core}\nBogoMIPS\t: 38.40\nFeatures\t: fp asimd evtstrm aes pmull sha1 sha2 "
        "crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp\nCPU implementer\t: 0x51\n"
        "CPU architecture: 8\nCPU variant\t: 0xd\nCPU part\t: 0x{part}\nCPU revision\t: 14\n\n"
    )
    cores = [block.format(core=core, part="805" if core < 4 else "804") for core in range(8)]
    files = {
        "cpuinfo": "".join(cores) + "Hardware\t: Qualcomm Technologies, Inc SM8250\n",
        "loadavg": "0.10 0.12 0.09 1/1234 4321\n",
        "version": "Linux version 4.19.113-perf (test) #1 SMP PREEMPT\n",
    }
    # Under sim/ to be mounted over the real ones, under proc/ for hosts that cannot mount.
    return {
        f"{place}/{name}": text for place in ("sim/proc", "proc") for name, text in files.items()
    }


def build(root: Path) -> None:
    """Make the folder of a phone at rest: charged, cool, on its cable."""
    for name in ("system/bin", "system/lib64", "data/local/tmp", "sim/settings/global",
                 "sim/settings/system", "sim/settings/secure", "dev", "proc"):  # fmt: skip
        (root / name).mkdir(parents=True, exist_ok=True)
    root.chmod(0o755)
    (root / "bin").symlink_to("system/bin")
    _copy_program(root, "mksh", "sh")
    _copy_program(root, "toybox", "toybox")
    _copy_program(root, "qemu-aarch64-static", "qemu-aarch64-static")
    names = subprocess.run(["toybox"], capture_output=True, text=True, check=True).stdout.split()
    for name in set(names) - set(_SCRIPTS):
        (root / "system/bin" / name).symlink_to("toybox")
    _write(
        root / "system/bin",
        {name: "#!/system/bin/sh" + text for name, text in _SCRIPTS.items()},
        0o755,
    )
    shim = [
        "cc",
        "-O1",
        "-shared",
        "-fPIC",
        "-x",
        "c",
        "-",
        "-o",
        str(root / "system/lib64/aarch64.so"),
        "-ldl",
    ]
    subprocess.run(shim, input=_SHIM.encode(), check=True)
    for name, minor in (("null", 3), ("zero", 5), ("urandom", 9)):
        os.mknod(root / "dev" / name, 0o20666, os.makedev(1, minor))
        (root / "dev" / name).chmod(0o666)
    _write(root, _cpu_files() | _proc_files())
    _write(root, {"etc/passwd": "shell:x:2000:2000::/:/bin/sh\n", "etc/group": "shell:x:2000:\n"})
    for core in range(8):
        # The true clock is for root alone, as on phones.
        path = root / f"sys/devices/system/cpu/cpu{core}/cpufreq/cpuinfo_cur_freq"
        _write(root, {str(path.relative_to(root)): "0\n"}, 0o400)
    for number, (name, value) in enumerate(
        (("cpu-1-7-usr", 38000), ("gpuss-0-usr", 36000), ("battery", 31000))
    ):
        zone = f"sys/class/thermal/thermal_zone{number}"
        _write(root, {f"{zone}/type": f"{name}\n", f"{zone}/temp": f"{value}\n"})
    global_settings = {"low_power": "0", "stay_on_while_plugged_in": "0"}
    _write(
        root / "sim/settings/global", {key: f"{value}\n" for key, value in global_settings.items()}
    )
    _write(
        root,
        {
            "sim/props": "".join(f"{key}={value}\n" for key, value in _PROPS.items()),
            "sim/calls": "",
        },
    )
    knobs = Knobs(root)
    knobs.battery()
    knobs.thermal(0)
    for path in (root / "data/local/tmp", root / "sim", *(root / "sim").rglob("*")):
        os.chown(path, SHELL_UID, SHELL_UID)


class Knobs:
    """What a test turns on a phone, at any time, also while something runs."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def set_property(self, key: str, value: str) -> None:
        lines = (self.root / "sim/props").read_text().splitlines()
        kept = [line for line in lines if not line.startswith(f"{key}=")]
        (self.root / "sim/props").write_text("\n".join([*kept, f"{key}={value}"]) + "\n")

    def battery(self, *, level: int = 85, celsius: float = 31.0, powered: bool = True) -> None:
        text = _BATTERY.format(
            powered=str(powered).lower(),
            status=2 if powered else 3,
            level=level,
            tenths=round(celsius * 10),
        )
        (self.root / "sim/battery").write_text(text)

    def battery_saver(self, *, on: bool = True) -> None:
        self.set_setting("global", "low_power", str(int(on)))

    def setting(self, space: str, key: str) -> str | None:
        path = self.root / "sim/settings" / space / key
        return path.read_text().strip() if path.exists() else None

    def set_setting(self, space: str, key: str, value: str) -> None:
        path = self.root / "sim/settings" / space / key
        path.write_text(value + "\n")
        os.chown(path, SHELL_UID, SHELL_UID)

    def thermal(
        self, *statuses: int, celsius: Mapping[str, float] | None = None, hal_ready: bool = True
    ) -> None:
        """`dumpsys thermalservice`: each call shows the next status, and the last from then on."""
        celsius = {"CPU4": 38.0, "GPU": 36.0, "skin": 33.5} if celsius is None else celsius
        kinds = {"C": 0, "G": 1, "b": 2, "s": 3}
        rows = "".join(
            f"\tTemperature{{mValue={value}, mType={kinds.get(name[0], -1)}, mName={name}, "
            f"mStatus={statuses[0]}}}\n"
            for name, value in celsius.items()
        )
        text = _THERMAL % (str(hal_ready).lower(), rows if hal_ready else "")
        (self.root / "sim/thermal").write_text(text)
        (self.root / "sim/thermal_status").write_text("".join(f"{status}\n" for status in statuses))

    def no_thermal_service(self) -> None:
        """As before Android 10."""
        (self.root / "sim/thermal").unlink()

    def no_fixed_performance(self) -> None:
        """A power service that knows the mode and does not have it."""
        (self.root / "sim/no_fixed_performance").touch()

    @property
    def fixed_performance(self) -> str | None:
        path = self.root / "sim/fixed_performance"
        return path.read_text().strip() if path.exists() else None

    def clocks(self, scale: float = 1.0, *, governor: str = _GOVERNOR) -> None:
        """Every core at this part of its highest clock."""
        for core in range(8):
            folder = self.root / f"sys/devices/system/cpu/cpu{core}/cpufreq"
            top = int((folder / "cpuinfo_max_freq").read_text())
            (folder / "scaling_cur_freq").write_text(f"{int(top * scale)}\n")
            (folder / "scaling_governor").write_text(f"{governor}\n")

    def clock_limits(self, scale: float = 1.0) -> None:
        """What every core may reach at most, as a part of its highest clock."""
        for core in range(8):
            folder = self.root / f"sys/devices/system/cpu/cpu{core}/cpufreq"
            top = int((folder / "cpuinfo_max_freq").read_text())
            (folder / "scaling_max_freq").write_text(f"{int(top * scale)}\n")

    def temperature(self, zone: int, celsius: float) -> None:
        (self.root / f"sys/class/thermal/thermal_zone{zone}/temp").write_text(
            f"{round(celsius * 1000)}\n"
        )

    def deny(self, pattern: str) -> None:
        """Make files unreadable: a glob relative to the root, like ``sys/class/thermal/*/temp``."""
        paths = list(self.root.glob(pattern))
        assert paths, pattern
        for path in paths:
            path.chmod(0)

    def disk_full_after(self, free_bytes: int | None) -> None:
        """No pushed file may hold more than this; None: room again."""
        path = self.root / "sim/free_bytes"
        path.unlink(missing_ok=True)
        if free_bytes is not None:
            path.write_text(str(free_bytes))

    def calls(self) -> list[str]:
        """What was changed through `svc`, `settings`, `cmd` and `input`, in order."""
        return (self.root / "sim/calls").read_text().splitlines()

    def forget_calls(self) -> None:
        """Begin the list of calls again."""
        (self.root / "sim/calls").write_text("")
