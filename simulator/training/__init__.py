"""The mechanism of a training job: blocks on streams, stages in a pipeline, memory, update, steps on the clock."""
