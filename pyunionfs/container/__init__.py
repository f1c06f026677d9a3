"""Containers: from an image to a running process, and from what it has changed to another image.

``changes`` reads an upper directory as the members of a layer, ``commit`` makes an image of them.
"""
