"""What runs beside the operator for a whole fleet. Never imported by what runs on a device."""
