"""How much an archive may ask of this machine."""

from dataclasses import dataclass

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what one load reads, each in bytes unless it says otherwise; past one is an ImageError.

    They stop bombs (a few kilobytes that unpack to terabytes), not large images: the defaults lie well
    above what the registries accept.
    """

    max_bytes: int = 512 * GIB  # of all layers of one load together, uncompressed; also what is spooled
    max_layer_bytes: int = 128 * GIB  # of one layer's tar, uncompressed
    max_file_bytes: int = 16 << 40  # of one file, holes included: 16 TiB is the limit of ext4
    max_entries: int = 4_000_000  # in one tar (a count)
    max_layers: int = 500  # in one image (a count): what the kernel's overlayfs stacks
    max_images: int = 1000  # in one archive (a count)
    max_name: int = 4096  # of one name or link target: PATH_MAX
    max_header: int = 4 * MIB  # of one entry's extended headers; xattrs are at most 64 KiB each
    max_remembered: int = GIB  # names, marks and directories' xattrs that are kept until a tar's end
    max_sparse: int = 250_000  # pieces in the map of one sparse file (a count)
    max_json: int = 4 * MIB  # of one JSON document: the limit that the registries set
    max_json_depth: int = 32  # of nesting (a count); a manifest needs 5


DEFAULT_LIMITS = Limits()
