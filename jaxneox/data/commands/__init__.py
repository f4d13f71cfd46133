"""The commands `jaxneox data`: what data holds, and what a run sees of it."""
