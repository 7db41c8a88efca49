// Empty: what precompiles headers must compile something (tests/CMakeLists.txt).
