peers {
  public_key = "+Y23l1qr9oEM4WlqPvp4IG2TPXdNCa11twipDvOHT3w="
  name       = "first"
  endpoint {
    address_family = "ip4"
    send_port      = 50180
    address        = "1.1.1.1"
  }
  endpoint {
    address_family = "ip6"
    send_port      = 50181
  }
  remarks {
    where = "attic"
  }
}

peers {
  public_key = "WLkgNBmW9GdP2LjwIRDb5yOP2/UfMw3Iu6lWW1y9PSo="
  endpoint {
    address_family = "ip4"
    send_port      = 50182
    address        = "example.org"
  }
}
