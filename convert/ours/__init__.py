"""jaxneox's own runs as the source or the target of a conversion.

source, target; next_command (what a user does after a conversion); unsaid (how to train on a model
whose files say nothing of its training); program (jaxneox itself, for the proof).
"""
