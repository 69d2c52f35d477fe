"""How this CPU computes in short number formats, from the flags that the kernel reports."""

import re
from functools import cache
from pathlib import Path


@cache
def cpu_flags() -> frozenset[str]:
    """Instruction sets in the Linux kernel's spelling (`avx512_vnni`, `amx_bf16`); empty on other systems."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(errors="replace") if info.is_file() else ""
    found = re.search(r"^(?:flags|Features)\s*:(.*)", text, re.MULTILINE)  # x86, Arm
    return frozenset(found[1].split() if found else ())


def has_bf16() -> bool:
    """Tell whether bf16 products are computed in hardware: AMX, AVX512-BF16 or Arm's BF16."""
    return not cpu_flags().isdisjoint({"amx_bf16", "avx512_bf16", "bf16"})


def has_fp16() -> bool:
    """Tell whether float16 products are computed in hardware: AVX512-FP16, AMX-FP16 or Arm's half precision."""
    return not cpu_flags().isdisjoint({"avx512_fp16", "amx_fp16", "asimdhp"})


def saturates_int8() -> bool:
    """Tell whether products of int8 are summed in pairs in 16 bits, where they saturate: x86 without VNNI."""
    flags = cpu_flags()
    return "ssse3" in flags and flags.isdisjoint({"avx512_vnni", "avx_vnni"})
