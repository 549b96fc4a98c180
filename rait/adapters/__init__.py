"""The imperative shell: one module for each thing outside of the process."""
