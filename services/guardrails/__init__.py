"""Guardrails: validators, policies, verdicts, anonymization and streaming checks of text.

Owns: the rules (as data, with their examples), the policies of each tenant, the decision over one
text and the edits that follow from it, the verdict cache, and the compatible front ends (OpenAI
moderation, Presidio, Bedrock). Never does: run a neural network itself (it asks inference), keep or
log a user's text, or rewrite a text before all verdicts are merged.
"""
