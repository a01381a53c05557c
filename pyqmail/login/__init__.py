"""Who somebody is: passwords, virtual users, the accounts of the system (checkpassword(8))."""
