"""Images in and out: formats, manifests, ranges, seeds. Imports nothing else of the project."""
