"""Containers: from an image to a running process, and from what it has changed to another image.

``containers`` are the directories that a store has for them, ``bundle`` says how an image is run in the words of
the OCI, and ``run`` has a runtime do it, or ``unshared``, which shows what a runtime does; for an ordinary user in
a namespace that ``rootless`` makes. ``changes`` reads an upper directory as the ``members`` of a layer, ``commit``
makes an image of them. ``usage`` and ``upkeep`` look after the store.
"""
