"""Turning what PostgreSQL said on its way out into a message with the remedy."""

from __future__ import annotations

LINES = 12


def explain(output: str) -> str:
    """Return the remedy for a known trouble, and the last lines of the output in any case."""
    tail = "\n".join(output.strip().splitlines()[-LINES:]) or "it said nothing"
    for signs, remedy in REMEDIES.items():
        if all(sign in output for sign in signs):
            return f"{remedy}\n{tail}"
    return f"\n{tail}"


REMEDIES = {
    ("shared memory segment", "No space left on device"): (
        "/dev/shm is full: free it, or give the container more (`docker run --shm-size=256m`)"  # noqa: S108
    ),
    ("No space left on device",): "the disk is full",
    ("could not create shared memory segment",): (
        "the kernel grants no shared memory: raise kernel.shmmax and kernel.shmall (`sysctl`)"
    ),
    ("could not map anonymous shared memory",): "not enough memory for shared_buffers",
    ("could not create semaphores",): "the kernel grants no semaphores: raise kernel.sem (`sysctl`)",
}
