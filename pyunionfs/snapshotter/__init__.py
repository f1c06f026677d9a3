"""A snapshotter for containerd: it keeps the layers and the containers' roots of one machine on pyunionfs.

``messages`` are those of the gRPC service, ``snapshots`` is what is kept and where, ``service`` answers containerd.
containerd mounts what it is told, by mount.fuse3 and :mod:`pyunionfs.mount_helper`: nothing here mounts.
"""
