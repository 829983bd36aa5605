"""What `make measure` measures, one module a topic.

Each has `measure(device)`, which returns what benchmarks/results/NAME.json will hold;
`bounds(result)`, every figure that must meet a bound; and `page(result)`, its part of RESULTS.md.
"""
