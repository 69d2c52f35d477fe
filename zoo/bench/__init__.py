"""Measurements: latency, Concat vs Add, training steps and profiles, as records of `zoo.results`.

statistics   medians, paired ratios and their intervals
timing       the interleaved timing loop
outcome      what comes of it, put into records
peak         the machine's own limits: GEMM rate and memory bandwidth
memory       peak memory, and a bound that turns running out of it into an error
"""
