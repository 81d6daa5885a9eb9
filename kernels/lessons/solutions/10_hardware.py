"""How many programs fit on a multiprocessor, and what limits them."""


def occupancy(registers: int, shared: int, warps: int) -> tuple[int, str]:
    """Registers a thread, bytes of shared memory and warps a program -> programs, and the cause.

    A multiprocessor has 65,536 registers, given out in eights a thread, 228 KiB of shared memory, of which the system
    takes 1 KiB a program, and room for 64 warps. The causes are "registers", "shared memory" and "warps".
    """
    fits = {
        "registers": 65536 // (-(-registers // 8) * 8 * 32 * warps),
        "shared memory": 228 * 1024 // (shared + 1024),
        "warps": 64 // warps,
    }
    cause = min(fits, key=lambda name: fits[name])
    return fits[cause], cause
