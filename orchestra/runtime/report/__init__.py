"""What a report of a session tells, read from its log and its repositories; how it looks is for the command line."""
