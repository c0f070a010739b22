"""`videomtr report`: trajectory lines -> one self-contained page that shows what the policy looked at and earned."""
