"""What aiopool costs, next to what people use instead. ``python -m benchmarks --quick``.

One script per question, each with what it measures, why that is fair and where aiopool
loses at its head; ``harness`` runs them, ``jobs`` holds what the workers execute.
"""
