"""From objects and annotations to policies, and from policies to rules: values in, values out."""
