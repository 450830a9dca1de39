"""Files without pickle: models, policies, buffers and VecNormalize statistics, whose reading runs no code from them."""
