"""Images: from an archive to directories that a union can mount.

An image is a configuration and a stack of layers; a layer is a tar with what one build step changed. Read in
this order:

=============  =================================================================================================
``store``      the whole: load, list, look up (:class:`~pyunionfs.image.store.Store`); with ``removal``, ``extract``
               and ``audit``
``archive``    which images an archive holds; ``docker`` and ``oci`` know the layouts, ``source`` the members
``blobs``      a layer's bytes: digests verified on the way, kept to be saved again byte for byte
``unpack``     one tar becomes one directory; the rules are in ``names`` (marks), ``tree`` (confinement),
               ``metadata`` (owners, modes), ``lowers`` (hard links across layers)
``tar``        the format itself, with ``pax`` and ``sparse``
``layers``     the unpacked layers, ``images`` the configurations, ``workspace`` what makes both atomic
=============  =================================================================================================

Everything here distrusts what it reads. ``limits`` says how much an archive may ask for; whatever is wrong
with it is an :class:`~pyunionfs.image.errors.ImageError` of one line.
"""
