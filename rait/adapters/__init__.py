"""The imperative shell: one module or folder for each thing outside of the process."""
