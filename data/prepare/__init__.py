"""Making a data set: a plan, its execution file by file, a journal, a report."""
