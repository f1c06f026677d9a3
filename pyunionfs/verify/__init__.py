"""Are we the kernel's overlayfs? Random operations on its mount and on ours, compared at each step.

==============================  =============================================================================
module                          answers
==============================  =============================================================================
:mod:`.trees`                   how a tree is built, described and compared
:mod:`.stacks`                  which lower layers: every kind of object on every other
:mod:`.mounting`                which mounts, with which options
:mod:`.operations`              what can be done to a mount
:mod:`.steps`                   one operation with its arguments; one side on which it is done
:mod:`.pair`                    two mounts, and room for many examples
:mod:`.run`                     one example: steps, each compared
:mod:`.draws`, :mod:`.machine`  how hypothesis draws steps
:mod:`.divergences`             what may differ, and why
:mod:`.runner`                  a whole verification
:mod:`.shrink`, :mod:`.script`  a found divergence made small, and as a script that anyone can run
==============================  =============================================================================

Only ``draws``, ``machine`` and ``runner`` need hypothesis; the tests use the rest by itself.
"""
