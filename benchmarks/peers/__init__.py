"""The same networks in another framework, to stand beside in the same run."""
