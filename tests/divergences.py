"""Where a filesystem of the posix suite is known to fail, and why: one table, read by the suite.

A test listed here must fail on the filesystems named (strict xfail), so that the table stays true. The
documentation of overlayfs lists most of the kernel's entries under "Non-standard behavior".
"""

KERNEL = ("kernel", "kernel-user")
KERNEL_LOWER = ("kernel-lower", "kernel-user-lower")
PYFUSE3 = ("pyfuse3", "pyfuse3-user")
PYFUSE3_LOWER = ("pyfuse3-lower", "pyfuse3-user-lower", "pyfuse3-writeback")
DEVFUSE = ("devfuse", "devfuse-user")
DEVFUSE_LOWER = (
    *("devfuse-lower", "devfuse-user-lower", "devfuse-uring", "devfuse-passthrough"),
    *("devfuse-block", "devfuse-open", "devfuse-writeback"),
)
OURS = PYFUSE3 + DEVFUSE
OURS_LOWER = PYFUSE3_LOWER + DEVFUSE_LOWER

_EXDEV = "redirect_dir=off: a directory of a lower layer is not moved (EXDEV)"
_HARD_LINKS = "index=off: a copy-up breaks hard links"

_PYFUSE3 = "pyfuse3 has no handler for it"

_NO_HANDLES = "a user namespace decodes no origin: a name found anew has the number of the copy"

# test function -> ((filesystems that fail it, reason), ...)
DIVERGENCES: dict[str, tuple[tuple[tuple[str, ...], str], ...]] = {
    "test_rename_of_a_directory_to_an_absent_name": ((KERNEL_LOWER + OURS_LOWER, _EXDEV),),
    "test_rename_of_a_directory_over_a_directory": ((KERNEL_LOWER + OURS_LOWER, _EXDEV),),
    "test_exchange_with_a_directory": ((KERNEL_LOWER + OURS_LOWER, _EXDEV),),
    "test_renaming_onto_another_name_of_the_same_file_does_nothing": ((KERNEL_LOWER + OURS_LOWER, _HARD_LINKS),),
    "test_a_mapping_made_before_the_copy_up_sees_what_is_written_after": (
        (KERNEL_LOWER, "a mapping keeps to the lower file"),
    ),
    "test_ranges_of_a_file_are_allocated_and_zeroed": ((PYFUSE3 + PYFUSE3_LOWER, _PYFUSE3),),
    "test_allocating_clears_setuid_for_others": ((PYFUSE3 + PYFUSE3_LOWER, _PYFUSE3),),
    "test_a_birth_time_is_told": ((PYFUSE3 + PYFUSE3_LOWER, _PYFUSE3),),
    "test_flags_of_inodes": ((PYFUSE3 + PYFUSE3_LOWER, _PYFUSE3),),
    "test_a_range_is_taken_out": ((OURS + OURS_LOWER, "FUSE refuses it in the kernel (fuse_file_fallocate)"),),
    "test_fallocate_extends": ((PYFUSE3 + PYFUSE3_LOWER, _PYFUSE3),),
    "test_fallocate_punches_holes": ((PYFUSE3 + PYFUSE3_LOWER, _PYFUSE3),),
    "test_o_tmpfile_can_be_written_and_linked": ((PYFUSE3 + PYFUSE3_LOWER, _PYFUSE3),),
    "test_hard_links_stay_together_when_one_is_written": ((KERNEL_LOWER + OURS_LOWER, _HARD_LINKS),),
    "test_removing_one_of_two_links_lowers_nlink": ((KERNEL_LOWER + OURS_LOWER, _HARD_LINKS),),
    "test_d_ino_of_dot_dot": ((KERNEL_LOWER, "xino=off: the number of a parent in another layer"),),
    "test_d_ino_equals_st_ino_of_several_names": (
        (PYFUSE3_LOWER, "a further name has a handle of its own, and the listing tells that"),
    ),
    "test_a_removed_directory_has_no_links": ((KERNEL_LOWER, "a merged directory keeps its link count"),),
    "test_the_device_0_0_can_be_made": (
        (KERNEL + KERNEL_LOWER + OURS + OURS_LOWER, "it would be a whiteout (EPERM)"),
    ),
    "test_link_gives_a_second_name_of_the_same_inode": ((("kernel-user-lower",), _NO_HANDLES),),
    "test_links_of_symlinks_and_fifos": ((("kernel-user-lower",), _NO_HANDLES),),
    "test_an_unlinked_file_can_be_changed_for_the_first_time": (
        (KERNEL_LOWER, "it cannot copy up what has no name any more (EEXIST)"),
    ),
    "test_truncating_to_the_same_size_still_moves_mtime": (
        (
            ("pyfuse3-writeback", "devfuse-writeback"),
            "with writeback the kernel keeps the time, and sends the old one",
        ),
    ),
}
