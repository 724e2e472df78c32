"""What others quantized becomes explicit Q/DQ around float operators, or float again."""
