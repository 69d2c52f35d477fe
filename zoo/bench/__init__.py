"""Measurements: latency, Concat vs Add, training steps, profiles, and their report.

statistics   medians, paired ratios and their intervals
timing       the interleaved timing loop
environment  what machine and versions a figure belongs to
peak         the machine's own limits: GEMM rate and memory bandwidth
memory       peak memory, and a bound that turns running out of it into an error
"""
