"""Files without pickle: models, replay buffers and VecNormalize statistics, whose reading runs no code from them."""
