"""Mount options that say how the kernel is served, beside those of the union (overlay/params.py)."""

import errno
from collections.abc import Mapping
from dataclasses import dataclass

VALUES: Mapping[str, tuple[str, ...]] = {
    "transport": ("auto", "devfuse", "pyfuse3"),
    "channel": ("auto", "uring", "poll", "block"),
    "enable_uring": ("off", "on"),
    "idle": ("auto", "poll", "halt"),
    "noopen": ("on", "off"),
    "passthrough": ("off", "on"),
    "takeover": ("on", "off"),
    "writeback": ("off", "on"),
}
"""The values of each option, the default first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportOptions:
    """How one mount is served."""

    transport: str = "auto"  # devfuse where the kernel suits it, otherwise pyfuse3
    channel: str = "auto"  # of devfuse: io_uring where it is enabled, otherwise /dev/fuse with a short poll
    idle: str = "auto"  # of devfuse: whether idle processors poll while requests come
    noopen: bool = True  # of devfuse, for root: the kernel does not tell of open(2), so a write copies up, not that
    enable_uring: bool = False  # set the module parameter that io_uring needs
    passthrough: bool = False  # the kernel reads and writes upper files by itself
    takeover: bool = True  # of devfuse: when the daemon dies, another one goes on
    writeback: bool = False  # the kernel keeps writes back, and makes larger ones of them


def parse(options: Mapping[str, str | bool | None]) -> TransportOptions:
    """Those of a mount's options that are ours. OSError(EINVAL) for a value that is not known, and for two that
    exclude each other."""
    chosen = {
        name: _value(name, options[name]) if name in options else values[0] for name, values in VALUES.items()
    }
    if chosen["passthrough"] == chosen["writeback"] == "on":
        raise OSError(errno.EINVAL, "conflicting mount options: passthrough=on,writeback=on")
    if chosen["idle"] == "poll" and chosen["channel"] in ("uring", "block"):
        raise OSError(errno.EINVAL, f"conflicting mount options: channel={chosen['channel']},idle=poll")
    if chosen["transport"] == "pyfuse3":
        for name in ("passthrough", "channel", "enable_uring", "idle"):
            if chosen[name] != VALUES[name][0]:
                raise OSError(errno.EINVAL, f"conflicting mount options: transport=pyfuse3,{name}={chosen[name]}")
    return TransportOptions(
        transport=chosen["transport"],
        channel=chosen["channel"],
        enable_uring=chosen["enable_uring"] == "on",
        idle=chosen["idle"],
        noopen=chosen["noopen"] == "on" and chosen["passthrough"] == "off",
        passthrough=chosen["passthrough"] == "on",
        takeover=chosen["takeover"] == "on",
        writeback=chosen["writeback"] == "on",
    )


def _value(name: str, raw: str | bool | None) -> str:
    value = "on" if raw in (None, True, "") else "off" if raw is False else str(raw)
    if value not in VALUES[name]:
        raise OSError(errno.EINVAL, f"mount option {name}={value}: not one of {', '.join(VALUES[name])}")
    return value
