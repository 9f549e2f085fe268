"""Split images into training, validation and test parts."""
