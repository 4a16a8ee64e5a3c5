"""cli"""
def main(): print("hi")
