"""How many programs fit on a multiprocessor, and what limits them.

HOLE: shared memory and warps are not considered, and registers are allocated in eights.
"""


def occupancy(registers: int, shared: int, warps: int) -> tuple[int, str]:
    """Registers a thread, bytes of shared memory and warps a program -> programs, and the cause.

    A multiprocessor has 65,536 registers, given out in eights a thread, 228 KiB of shared memory, of which the system
    takes 1 KiB a program, and room for 64 warps. The causes are "registers", "shared memory" and "warps".
    """
    return 65536 // (registers * 32 * warps), "registers"  # HOLE
