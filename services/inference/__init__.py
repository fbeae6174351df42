"""Inference: owns the model repository and lifecycle, engines, scoring and explanation.

It answers `/score/*` and `/models`, reads online features through the shared reader and records
each prediction as an event before the answer leaves. It never defines features, never authenticates
end users, never ingests events, and never loads a pickle.
"""
