"""Execution of text models: tokenizing at admission, the scheduler around its pure core, executors.

`TextPlane` resolves a model and asks its cache and its `TextRunner`; the runner tokenizes and hands
windows to a `Scheduler`; that one forms batches for `Executor` threads.
"""
