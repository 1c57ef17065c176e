"""Models that other programs have trained, as runs of this one."""
