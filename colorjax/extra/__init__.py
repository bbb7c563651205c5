"""What only some runs need: Muon, adversarial training, CPU convolutions, several processes."""
