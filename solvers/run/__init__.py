"""Running solvers on scans: what is read, what it costs, what is written. Algorithms never import it."""
