"""Sets of processes that run one function or program each: start, wait, logs, errors, stop."""
