"""The papers' own forms of the algorithms, where ours differ."""
