"""What a trained model says about a scene, as maps and pictures."""
