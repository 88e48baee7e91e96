"""The page of a report: one file that needs nothing else, and in which nothing of its contents can run or load."""
