"""Replays: recordings of a group's store operations, and their order forced again."""
