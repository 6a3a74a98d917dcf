"""What the benchmarks share: processes that answer, what they are asked, the machine. Knows no benchmark."""
