"""What a first reading may skip: Muon, CPU convolutions, adversarial training, processes."""
