"""One module a command: its options, its use case and its output.

A module is imported when its command runs, or to show its help. Its ``declare`` says what the
command is, and no command imports another.
"""
