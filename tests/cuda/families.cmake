# A ctest entry for each codec and policy. Their names come from docs/codecs.md, which a test compares
# with the lists in the code.
set(list_of "Codecs")
foreach(kind Codecs Policies)
  set(families_of_${kind} "")
endforeach()
file(STRINGS "${PROJECT_SOURCE_DIR}/docs/codecs.md" lines REGEX "^(#|[|] `)")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/docs/codecs.md")
foreach(line IN LISTS lines)
  if(line MATCHES "^#+ (.*)$")
    set(list_of "${CMAKE_MATCH_1}")
  elseif(line MATCHES "^[|] `([a-z0-9-]+)`")
    list(APPEND "families_of_${list_of}" "${CMAKE_MATCH_1}")
  endif()
endforeach()
set(codec_families ${families_of_Codecs})
set(policy_families ${families_of_Policies})

# kvcodec_list_families(<test> <family>...): <test>/<family> runs the tests whose parameter is of that
# family and fails if there is none; <test> itself runs the others.
function(kvcodec_list_families test)
  set(listed "")
  foreach(family IN LISTS ARGN)
    string(REPLACE "-" "_" param "${family}")
    set(filter "*/${param}:*/${param}_*")
    string(APPEND listed ":${filter}")
    add_test(NAME "${test}/${family}" COMMAND ${test} "--gtest_filter=${filter}"
      WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}")
    set_tests_properties("${test}/${family}" PROPERTIES LABELS simt TIMEOUT 300
      FAIL_REGULAR_EXPRESSION "Running 0 tests")
  endforeach()
  string(SUBSTRING "${listed}" 1 -1 listed)
  set_tests_properties(${test} PROPERTIES ENVIRONMENT "GTEST_FILTER=-${listed}")
endfunction()
