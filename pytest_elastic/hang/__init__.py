"""What the ranks' stacks say about a hang."""

from pytest_elastic.hang._stacks import Frame, Stack, cut_harness, fold, parse_stacks

__all__ = ["Frame", "Stack", "cut_harness", "fold", "parse_stacks"]
