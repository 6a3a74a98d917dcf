"""What HTTP costs and what the server withstands: `python -m benchmarks.serving`."""
